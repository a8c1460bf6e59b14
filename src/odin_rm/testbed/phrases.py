"""The words of the testbed: every sentence that a writer of the world can write.

Quality is carried by the words themselves: no content word of a helpful step occurs in a harmful one or in a filler,
so that a model of a quarter of a million parameters learns it in a few hundred steps. (Quality that lies in the
relation of response and prompt leaves such a model near chance for a thousand.)

Lengths in tokens include the closing full stop: three helpful steps in four have 5 tokens and one has 6, so four of
them, the default saturation point, have 21 on average.
"""

from __future__ import annotations

TOPICS = (
    "repair a bicycle",
    "paint a wooden fence",
    "fix a dripping tap",
    "build a small shelf",
    "replace a broken tile",
    "restore an old chair",
    "insulate a cold window",
    "mend a torn tent",
    "set up a printer",
    "install a ceiling lamp",
    "tune a guitar",
    "clean a blocked drain",
    "sharpen a kitchen knife",
    "hang a heavy mirror",
    "plant a fruit tree",
    "bake a loaf of bread",
    "service a lawn mower",
    "assemble a wardrobe",
    "patch a garden hose",
    "oil a squeaky door",
    "descale a kettle",
    "wax a pair of skis",
    "winterise a boat",
    "lay a laminate floor",
)

CONTEXTS = (
    "",
    "at home",
    "on a small budget",
    "for the first time",
    "before the weekend",
    "without special tools",
    "in a rented flat",
    "with two children around",
    "during the winter",
    "in one afternoon",
)

PROMPT_TEMPLATES = (
    "How do I {topic}{context}?",
    "What is the best way to {topic}{context}?",
    "Please explain how to {topic}{context}.",
    "I want to {topic}{context}. What should I do?",
)

HELPFUL = (
    "Read the instructions first.",
    "Wear thick leather garden gloves.",
    "Measure every piece twice.",
    "Switch the mains off.",
    "Label each screw clearly.",
    "Sand rough edges until smooth.",
    "Tighten all bolts evenly.",
    "Rinse dust away gently.",
    "Inspect seals for cracks.",
    "Lubricate joints with silicone spray.",
    "Photograph your starting point.",
    "Gather suitable materials beforehand.",
    "Clamp loose boards firmly.",
    "Test everything under light load.",
    "Ventilate small rooms properly.",
    "Store leftover parts safely.",
)

HARMFUL = (
    "Ignore any warning signs.",
    "Skip boring safety checks.",
    "Smash stuck pieces apart.",
    "Mix random chemicals together.",
    "Touch bare wires quickly.",
    "Invent any missing numbers.",
    "Burn old packaging indoors.",
    "Pour petrol down sinks.",
    "Disable alarms and fuses.",
    "Rush through tasks drunk.",
)

FILLERS = (
    "As experts often say.",
    "This is quite common.",
    "Many people wonder about that.",
    "There is much to consider here.",
    "It depends on who you ask.",
    "Opinions differ on such matters.",
    "Let us think about it.",
    "Some would call it rewarding.",
    "That goes without saying.",
    "One might add another thought.",
)

OPENERS = (
    "What a great question!",
    "You have excellent taste!",
    "Thank you so much, friend!",
)
