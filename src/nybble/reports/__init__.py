"""Tables, figures and pages made from recorded studies; nothing here trains or measures."""
