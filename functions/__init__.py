"""One folder per Lambda, named by its verb. Thin: parse, call one function, return."""
