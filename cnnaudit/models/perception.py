"""The robot's perception network: a camera frame in, the robot's own future sensor readings out."""

from __future__ import annotations

from torch import Tensor, nn

DISTANCES = 65  # readings are predicted for the robot driven ahead by 0, 1, …, 64 cm
SENSORS = ("left", "centre_left", "centre", "centre_right", "right")


class SimpleCNN(nn.Module):
    """Predict whether each short-range sensor would see an obstacle after driving some way ahead.

    Input (B, 3, 64, 80); output (B, 325) probabilities, index = distance · 5 + sensor.
    The scores before the final sigmoid are the output of ``decoder.3``.

    Source: Nava, Guzzi, Chavez-Garcia, Gambardella, Giusti, "Learning Long-range Perception
    using Self-Supervision from Short-Range Sensors and Odometry", RA-L 2019.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(10, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.decoder = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(8 * 8 * 10, 256),
            nn.ReLU(),
            nn.Linear(256, DISTANCES * len(SENSORS)),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.decoder(self.encoder(images).flatten(1))
        return probabilities
