"""The robot case study: a camera predicts the robot's own short-range sensors further ahead."""
