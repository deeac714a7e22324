"""A problem with its parameters bound: values and derivatives for a batch of samples."""
