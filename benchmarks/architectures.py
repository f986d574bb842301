"""The torch modules that benchmarks ask: their sizes are the published ones.

`Encoder` is BERT (J. Devlin et al., NAACL 2019) as MiniLM and BERT-base have it, `ResNet50` the
image classifier (K. He et al., CVPR 2016), `TabularNet` a plain perceptron. All but the last have
weights from a seed: those do not change how long an answer takes. Written out because their
libraries (transformers, torchvision) are no part of this project. Inputs and outputs are float32
whatever the weights are, so that `module.half()` has the same contract.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 7


@dataclass(frozen=True)
class Size:
    """Of an encoder."""

    layers: int
    width: int
    heads: int
    inner: int


MINILM = Size(layers=6, width=384, heads=12, inner=1536)
BERT_BASE = Size(layers=12, width=768, heads=12, inner=3072)
VOCABULARY, POSITIONS, KINDS = 30_522, 512, 2
CLASSES = 1_000


class _EncoderLayer(nn.Module):
    """Attention and a perceptron, each added to what came in and normalised after that."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.to_attend = nn.Linear(size.width, 3 * size.width)
        self.attended = nn.Linear(size.width, size.width)
        self.first_norm = nn.LayerNorm(size.width, eps=1e-12)
        self.widen = nn.Linear(size.width, size.inner)
        self.narrow = nn.Linear(size.inner, size.width)
        self.second_norm = nn.LayerNorm(size.width, eps=1e-12)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        rows, length, width = tokens.shape
        parts = self.to_attend(tokens).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = mixed.transpose(1, 2).reshape(rows, length, width)
        tokens = self.first_norm(tokens + self.attended(mixed))
        return self.second_norm(tokens + self.narrow(functional.gelu(self.widen(tokens))))


class Encoder(nn.Module):
    """Token ids to one vector per text: the mean over its tokens, of length one.

    Inputs are int64 [rows, length]; `attention_mask` is 0 for padding, which changes nothing.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.words = nn.Embedding(VOCABULARY, size.width)
        self.places = nn.Embedding(POSITIONS, size.width)
        self.kinds = nn.Embedding(KINDS, size.width)
        self.norm = nn.LayerNorm(size.width, eps=1e-12)
        self.layers = nn.ModuleList(_EncoderLayer(size) for _ in range(size.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        tokens = self.words(input_ids) + self.places(place) + self.kinds(token_type_ids)
        tokens = self.norm(tokens)
        seen = attention_mask[:, None, None, :] > 0
        for layer in self.layers:
            tokens = layer(tokens, seen)
        weight = attention_mask[:, :, None].to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1)
        return functional.normalize(mean.float(), dim=-1)


class _Bottleneck(nn.Module):
    """Three convolutions around a sum with what came in."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        outer = 4 * inner
        self.steps = nn.Sequential(
            *_convolution(channels, inner, 1),
            nn.ReLU(),
            *_convolution(inner, inner, 3, stride),
            nn.ReLU(),
            *_convolution(inner, outer, 1),
        )
        same = stride == 1 and channels == outer
        self.past = (
            nn.Identity() if same else nn.Sequential(*_convolution(channels, outer, 1, stride))
        )

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.steps(image) + self.past(image))


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    step = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return [step, nn.BatchNorm2d(out)]


class ResNet50(nn.Module):
    """Images, float32 [rows, 3, 224, 224], to the probabilities of 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        parts: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for block in range(blocks):
                stride = 2 if block == 0 and inner > 64 else 1
                parts.append(_Bottleneck(channels, inner, stride))
                channels = 4 * inner
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.body(image.to(self.head.weight.dtype)).mean((2, 3))
        return self.head(seen).float().softmax(-1)


class TabularNet(nn.Module):
    """Rows of numbers, float32 [rows, n] with NaN where one is missing, to a probability.

    Args:
        medians: stand for what is missing.
        means, scales: standardise.
    """

    def __init__(self, medians: Tensor, means: Tensor, scales: Tensor) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.medians, self.means, self.scales = map(nn.Buffer, (medians, means, scales))
        self.layers = nn.Sequential(
            nn.Linear(len(medians), 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 1),
        )

    def logits(self, rows: Tensor) -> Tensor:
        """Before the logistic function: what is trained on."""
        rows = rows.to(self.medians.dtype)
        filled = torch.where(torch.isnan(rows), self.medians, rows)
        logits: Tensor = self.layers((filled - self.means) / self.scales)
        return logits.float()

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(rows))
