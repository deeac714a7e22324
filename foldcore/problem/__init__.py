"""What a user declares: quadratic programs, problems of functions, and how they are recognised."""
