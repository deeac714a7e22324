"""foldcore: any optimisation solver as a differentiable layer, by fixed-point folding."""
