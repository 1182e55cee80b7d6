"""A small classifier of pictures, with either kind of head: is there a tank in the wood?"""

from __future__ import annotations

from torch import Tensor, channels_last, nn

CLASSES = ("wood", "tank")
CHANNELS = (8, 16, 32, 32)
HIDDEN = 32


class Detector(nn.Module):
    """Four blocks of convolution, then a head that gives logits.

    Input (B, 3, 64, 64); output (B, 2), index as in ``CLASSES``. The blocks end at 8×8.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, CHANNELS[0]),
            nn.MaxPool2d(2),
            *_block(CHANNELS[0], CHANNELS[1]),
            nn.MaxPool2d(2),
            *_block(CHANNELS[1], CHANNELS[2]),
            nn.MaxPool2d(2),
            *_block(CHANNELS[2], CHANNELS[3]),
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=channels_last)  # half the time on a CPU
        logits: Tensor = self.head(self.features(images))
        return logits


def pooled() -> Detector:
    """Return an untrained detector that averages each channel over the picture: CAM's kind."""
    return Detector(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], len(CLASSES)))
    )


def flat() -> Detector:
    """Return an untrained detector whose hidden layer sees every place by itself."""
    return Detector(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(CHANNELS[-1] * 8 * 8, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(HIDDEN, len(CLASSES)),
        )
    )


def _block(channels_in: int, channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels), nn.ReLU()
