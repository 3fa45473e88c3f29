"""Dimensions of RWKV-7 models for tests, usual and unusual ones."""

from __future__ import annotations

from dataclasses import replace

from rwkv_cy.config import Config


def rwkv7_config(
    d_model: int, num_layers: int, head_size: int, ranks: tuple[int, ...], vocab_size: int = 100, **changed: int
) -> Config:
    """Return a Config of RWKV-7; `ranks` are those of w, a, v and g."""
    return Config(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=vocab_size,
        architecture="rwkv7",
        head_size=head_size,
        ranks=dict(zip("wavg", ranks, strict=True)),
        **changed,
    )


#: By name; every one has something that the others have not.
SMALL = {
    "heads of 64": rwkv7_config(128, 3, 64, (8, 8, 8, 16)),
    "C 96 with heads of 32": rwkv7_config(96, 3, 32, (16, 8, 8, 24)),
    "one layer": rwkv7_config(64, 1, 16, (8, 8, 8, 8)),
    "odd ranks": rwkv7_config(48, 4, 16, (5, 7, 3, 11)),
    "odd heads, odd widths": rwkv7_config(35, 2, 7, (5, 7, 3, 11), vocab_size=61, d_ffn=101),
    "one head": rwkv7_config(24, 2, 24, (4, 4, 4, 4)),
}

#: Those of RWKV-7a: every rank s differs from the other ranks.
SMALL_7A = {
    name: replace(config, architecture="rwkv7a", ranks={**config.ranks, "s": rank})
    for (name, config), rank in zip(SMALL.items(), (8, 32, 4, 6, 9, 1), strict=True)
}

#: The same with the only rank s that the authors' package knows.
SMALL_7A_32 = {f"7a, {name}": replace(config, ranks={**config.ranks, "s": 32}) for name, config in SMALL_7A.items()}

#: The smallest released model.
RELEASED_01B = rwkv7_config(768, 12, 64, (64, 64, 32, 128), vocab_size=65536)
