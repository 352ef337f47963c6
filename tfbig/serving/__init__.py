"""What leaves training: SavedModels, their signatures and the checks of them."""
