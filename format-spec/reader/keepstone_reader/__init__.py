"""An independent reader of keepstone repositories, written from format-spec alone.

It shares no code with the program. Errors name the rule of the specification that is broken.
"""
