"""The AWS calls of the functions and the runners."""
