"""Cheap policies that a learned one has to beat: every module here is an entry, found by its file name.

A module holds a class `Baseline` with

- `name`: as in tables and metric keys;
- `fit(sessions, seed, filler)`: learn from training sessions;
- `suggest(sessions)`: one `Suggestion` for each operator step, in order, without tokens; its probabilities are those
  of the baseline's own distribution over the actions that the state offers;
- `suggest_now(moments)`: the same for running sessions, each a moment of a `Watch`.

They differ in how they choose tool and target and share how they fill in arguments (`_arguments`).
"""
