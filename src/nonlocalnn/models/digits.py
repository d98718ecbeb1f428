"""The digit classifier that the AlexHex7/Non-local_pytorch demo trains: three convolutions, two blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nonlocalnn._errors import check_whole
from nonlocalnn.blocks import NonLocal2d, Norm, SubSample
from nonlocalnn.functional import Instantiation

_LARGEST = 65536  # pixels a side


class DigitsNetwork(nn.Module):
    """Convolutional classifier of small images, with a non-local block after the first and second stage.

    Each stage is a 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling, to 32, 64 and 128
    channels; then two fully connected layers. Layers and widths are those of the AlexHex7 demo, whose
    weights :func:`nonlocalnn.load_checkpoint` reads.

    Shape:
        - Input: (B, in_channels, H, W), values in [0, 1].
        - Output: scores (B, num_classes).

    Args:
        num_classes: Number of classes.
        in_channels: 1 for grey images, 3 for colour.
        image_size: Side of the square input, or H and W, in pixels, each at least 8.
        instantiation: The pairwise function of both blocks.
        blocks: False leaves the blocks out: the same network without non-local context.
        sub_sample: See :class:`nonlocalnn.blocks.NonLocalNd`.
        use_scale: See :class:`nonlocalnn.blocks.NonLocalNd`.
        norm: See :class:`nonlocalnn.blocks.NonLocalNd`.
        zero_init: See :class:`nonlocalnn.blocks.NonLocalNd`.

    Raises:
        ValueError: ``image_size`` is below 8, or another setting does not fit.

    Example:
        >>> import torch
        >>> DigitsNetwork()(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        instantiation: Instantiation = "embedded_gaussian",
        blocks: bool = True,
        sub_sample: SubSample = "after",
        use_scale: bool = False,
        norm: Norm = "batch",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes)
        check_whole("in_channels", in_channels)
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or not all(isinstance(side, int) and 8 <= side <= _LARGEST for side in sides):
            raise ValueError(
                f"image_size must be at least 8, three halvings, and at most {_LARGEST}: a side, or "
                f"height and width; got {repr(image_size)[:80]}"
            )
        height, width = sides

        def block(channels: int) -> nn.Module:
            if not blocks:
                return nn.Identity()
            return NonLocal2d(
                channels,
                instantiation=instantiation,
                sub_sample=sub_sample,
                use_scale=use_scale,
                norm=norm,
                zero_init=zero_init,
            )

        self.conv_1 = _stage(in_channels, 32)
        self.nl_1 = block(32)
        self.conv_2 = _stage(32, 64)
        self.nl_2 = block(64)
        self.conv_3 = _stage(64, 128)
        self.fc = nn.Sequential(
            nn.Linear(128 * (height // 8) * (width // 8), 256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, shape (B, num_classes)."""
        x = self.nl_1(self.conv_1(x))
        x = self.nl_2(self.conv_2(x))
        return self.fc(self.conv_3(x).flatten(1))


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
