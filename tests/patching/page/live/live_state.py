"""The example's prompts and answers, as fields of the live page."""

STATE = {
    "clean": "Michelle Jones was a top-notch student. Michelle",
    "corrupt": "Michelle Smith was a top-notch student. Michelle",
    "target": "Jones",
    "foil": "Smith",
}
