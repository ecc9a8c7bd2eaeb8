"""SimCal (ECCV 2020): a second classification head, trained on balanced proposals, for rare categories."""
