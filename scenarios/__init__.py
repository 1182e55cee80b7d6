"""Case studies: one folder each, with its scene, its rendered images and its trained model."""
