"""What a network has learnt: where it comes from, how it is read and checked."""
