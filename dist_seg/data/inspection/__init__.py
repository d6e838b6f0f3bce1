"""Looking at every sample of a packed data set for what would spoil a training or its score."""
