"""The experiments of "Backpropagation of Unrolled Solvers with Folded Optimization", with foldcore."""
