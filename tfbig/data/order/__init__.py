"""The order of examples: permutations, and their distribution over workers."""
