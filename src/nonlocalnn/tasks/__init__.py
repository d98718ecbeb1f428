"""What is learnt and of what kind of input: data, loss, figures, and answers to files."""
