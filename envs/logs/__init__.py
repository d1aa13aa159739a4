"""Raw operator logs to Sessions: readers, validation, the Parquet store."""
