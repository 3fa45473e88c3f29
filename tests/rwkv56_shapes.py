"""Dimensions of RWKV-5 and RWKV-6 models for tests, usual and unusual ones."""

from __future__ import annotations

from rwkv_cy.config import Config


def rwkv5_config(
    minor: int, d_model: int, num_layers: int, head_size: int, vocab_size: int = 100, **changed: int
) -> Config:
    """Return a Config of RWKV-5 in a minor version."""
    return Config(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=vocab_size,
        architecture=f"rwkv5.{minor}",
        head_size=head_size,
        **changed,
    )


def rwkv6_config(
    d_model: int, num_layers: int, head_size: int, ranks: tuple[int, int], vocab_size: int = 100, **changed: int
) -> Config:
    """Return a Config of RWKV-6; `ranks` are those of the mixes and of the decay."""
    return Config(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=vocab_size,
        architecture="rwkv6",
        head_size=head_size,
        ranks=dict(zip(("maa", "decay"), ranks, strict=True)),
        **changed,
    )


#: By name; every one has something that the others have not.
SMALL_5 = {
    "5.0": rwkv5_config(0, 128, 3, 64, d_ffn=192),
    "5.1": rwkv5_config(1, 96, 3, 32, d_ffn=160),
    "5.2": rwkv5_config(2, 128, 2, 64, d_ffn=448),
    "5.0, odd widths": rwkv5_config(0, 35, 3, 7, vocab_size=61, d_ffn=101),
    "5.1, two heads": rwkv5_config(1, 48, 2, 24),
    "5.2, one layer, odd widths": rwkv5_config(2, 35, 1, 5, vocab_size=61, d_ffn=29),
}
SMALL_6 = {
    "6, heads of 64": rwkv6_config(128, 3, 64, (32, 64), d_ffn=448),
    "6, C 96 with heads of 32": rwkv6_config(96, 3, 32, (16, 8)),
    "6, one layer": rwkv6_config(64, 1, 16, (8, 8)),
    "6, odd ranks, odd heads, odd widths": rwkv6_config(35, 2, 7, (5, 11), vocab_size=61, d_ffn=101),
}

#: Small released models.
RELEASED_04B = rwkv5_config(2, 1024, 24, 64, vocab_size=65536, d_ffn=3584)
