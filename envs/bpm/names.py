"""Made-up people and places for generated records. Any resemblance is chance; addresses are no real ones."""

from __future__ import annotations

_GIVEN = """
Ada Adil Agnes Aiko Alan Alba Amara Amir Anders Anita Anton Arjun Astrid Aylin Beatriz Benno Bilal Bruno Carla
Casper Celia Chidi Clara Cora Dalia Daniel Daria David Devika Dilan Edith Elias Elif Emeka Emil Enzo Erik Esther
Fatima Felix Fiona Florian Freya Gabor Gemma Georg Greta Gwen Hana Hannah Harun Hector Helen Hugo Ida Igor Imani
Ingrid Iris Ivan Jakob Jana Jasper Joan Jonas Judith Julia Kaan Karim Katja Keira Kenji Klara Kofi Lars Layla Lea
Leon Lidia Linus Lotte Lucia Luka Magnus Malik Mara Marco Marie Martin Matilda Maya Mei Milan Mina Moritz Nadia
Naomi Nils Nina Noah Nora Olga Oliver Omar Oscar Otto Paula Pavel Petra Priya Quentin Rafael Rania Rita Robert Rosa
Ruben Ruth Samir Sara Selma Simon Sofia Stefan Sunita Sven Tamar Teresa Thea Tobias Tomas Uma Vera Victor Viola
Wanda Wilma Yara Yusuf Zoe
"""
GIVEN: tuple[str, ...] = tuple(_GIVEN.split())
"""Given names."""

_FAMILY = """
Abara Achterberg Adler Albrecht Almeida Amsel Aquino Arden Asante Aydin Bachmann Balint Banner Barros Becker
Bellamy Berg Bianchi Birch Blackwood Bloom Borges Brandt Brook Calder Campos Carver Castell Chandra Clay Conti
Coronel Corwin Dahl Darby Delgado Demir Dietz Dorn Drake Duarte Dunmore Eklund Ellery Engel Falk Farrow Ferrand
Fischer Forde Franke Gallo Garland Gerber Gill Graf Greco Haas Hadley Hansen Harlow Hassan Heller Hofer Holm Horvat
Ibarra Iversen Jansen Joshi Kaplan Kaya Keller Kessler Kimura Klein Kovac Kruse Lang Larkin Lehmann Lindgren Lobo
Lorenz Lund Mahler Marlow Marsh Mendez Merz Mirza Moreau Moss Nakano Neumann Novak Nyberg Oduya Okafor Olsen Orlov
Osei Palmer Park Pereira Petrov Quint Rahman Reed Richter Riedel Rossi Roth Sahin Salas Sander Santos Sauer Schmid
Seidel Shah Sommer Stark Steiner Stone Sutter Tanaka Tarrant Thorne Torres Ullman Urban Vance Varga Vega Vogel
Voss Wagner Walsh Weber Weiss Winter Wolf Yamada York Zander Zeller Ziegler
"""
FAMILY: tuple[str, ...] = tuple(_FAMILY.split())
"""Family names."""

STREETS: tuple[str, ...] = (
    "Abbey Walk",
    "Acorn Lane",
    "Alder Street",
    "Baker's Row",
    "Beacon Hill",
    "Birch Avenue",
    "Bridge Street",
    "Canal Road",
    "Castle Street",
    "Chapel Lane",
    "Cherry Close",
    "Church Street",
    "Cliff Road",
    "Copper Street",
    "Crescent Way",
    "Dock Street",
    "Elm Grove",
    "Fern Hill",
    "Ferry Road",
    "Forge Lane",
    "Foundry Street",
    "Garden Square",
    "Granary Road",
    "Harbour View",
    "Hazel Court",
    "High Street",
    "Hollow Lane",
    "Juniper Way",
    "Kiln Road",
    "King Street",
    "Lantern Street",
    "Larch Avenue",
    "Lime Walk",
    "Linden Street",
    "Lock Road",
    "Maple Drive",
    "Market Square",
    "Meadow Lane",
    "Mill Lane",
    "Moor End",
    "North Parade",
    "Oak Street",
    "Orchard Road",
    "Park Row",
    "Pine Close",
    "Quarry Road",
    "Queen Street",
    "Rose Terrace",
    "Rowan Way",
    "School Lane",
    "Silver Street",
    "South Quay",
    "Spring Gardens",
    "Station Road",
    "Stone Bridge",
    "Swan Street",
    "Thistle Lane",
    "Tower Hill",
    "Vine Street",
    "Water Lane",
    "Weaver Street",
    "West Gate",
    "Willow Road",
    "Windmill Street",
)
"""Streets."""

_TOWNS = """
Aldermoor Amberley Ashgrove Barlow Beckford Bramhall Brindle Caldbeck Castlemere Coldbrook Dunmoor Eastwick
Elmbridge Fairhaven Farnley Foxdale Glenford Greywater Hallowby Harwick Hazelton Highmere Holmfield Ivybridge
Kelburn Kingsholm Langmere Larkfield Linton Lowbridge Maplewood Marston Millbrook Netherby Newhaven Northwold
Oakhurst Oldbury Otterby Pendle Quayside Ravensby Redcliff Rivermouth Rosehill Saltmarsh Sandwell Selby Southwold
Stonefield Summerton Thornby Underhill Waldron Westerham Whitby Wickham Winterton Woodburn Yarrow
"""
TOWNS: tuple[str, ...] = tuple(_TOWNS.split())
"""Towns."""

MAIL: tuple[str, ...] = ("example.com", "example.net", "example.org", "mail.example", "post.example", "inbox.example")
"""Mail providers, all in the domains that are reserved for examples."""
