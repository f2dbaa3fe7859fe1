"""What is to be seen in a picture, in words: taggers, each a function of records alone."""
