"""The speech language model: the tables a layout asks for, a backbone, and a head.

Nothing here knows which backbone it holds: exchanging it is the purpose of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import Backbone, Reading, State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE, Layout, Prompt
from wishbone.core.contract.session import Action, Feed, LayoutSession, Position
from wishbone.core.model.state_batch import check_masked_rows, copied, join

TABLE_STD = 0.02
"""Standard deviation of a new table's rows: the scale at which residual streams usually begin."""


class SpeechLM(nn.Module):
    """Positions of a layout to hidden vectors, and hidden vectors to a loss over codes.

    The speech table is the head's own (it reads codes in both directions); every other table of
    the layout is an ``nn.Embedding`` in ``tables``, of which a position uses the id of its first
    codebook. Behind the D numbers of a hidden vector stands a pointer where the head takes one.
    """

    def __init__(self, backbone: Backbone, head: Head, layout: Layout) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.names = tuple(layout.tables)
        self.tables = nn.ModuleDict()
        for name in self.names[1:]:
            table = nn.Embedding(layout.tables[name], backbone.width)
            nn.init.normal_(table.weight, std=TABLE_STD)
            self.tables[name] = table
        if head.points:
            backbone.point()
        self.engine = "eager"
        """The engine that computes steps, in words, as ``accelerate`` returned it."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the tables, which is the dtype of the vectors that enter the backbone."""
        return next(chain(self.tables.parameters(), self.parameters())).dtype

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        """table [B, T], ids [B, T, Q] -> vectors [B, T, D].

        Every table is read at every position and the right row kept: nothing depends on how many
        positions are speech, so a GPU never waits for a count.
        """
        speech = table == Layout.SPEECH  # [B, T]
        vectors = self.head.embed(ids.masked_fill(~speech[..., None], 0))  # [B, T, D]
        for index, name in enumerate(self.names[1:], start=1):
            selected = table == index  # [B, T]
            rows = self.tables[name](ids[..., 0].masked_fill(~selected, 0))  # [B, T, D]
            vectors = torch.where(selected[..., None], rows, vectors)  # [B, T, D]
        return vectors

    def embed_positions(self, positions: Sequence[Position]) -> Tensor:
        """Positions of a ``Feed`` -> vectors [1, T, D]; a single position reads its table only."""
        if len(positions) == 1:
            index, ids = positions[0]
            if index == Layout.SPEECH:
                return self.head.embed(torch.tensor([[ids]], device=self.device))  # [1, 1, D]
            rows = cast(Tensor, self.tables[self.names[index]].weight)  # [N, D]
            return rows[ids[0]].view(1, 1, -1)  # [1, 1, D]
        table = torch.tensor([[index for index, _ in positions]], device=self.device)  # [1, T]
        ids = torch.tensor([[ids for _, ids in positions]], device=self.device)  # [1, T, Q]
        return self.embed(table, ids)  # [1, T, D]

    @torch.inference_mode()
    def advance(self, positions: Sequence[Position], state: State) -> tuple[Tensor, State]:
        """Positions of a ``Feed`` -> the last hidden vector [D], and the state after them.

        One position is a decoding step, which may change ``state`` in place: use what comes back.
        """
        x = self.embed_positions(positions)  # [1, T, D]
        beside = self.beside([positions])
        if len(positions) == 1:
            return self.backbone.step_(x, state, **beside)[0, 0], state
        y, state = self.backbone(x, state, **beside)  # [1, T, D]
        return y[0, -1], state

    def beside(self, rows: Sequence[Sequence[Position]]) -> dict[str, Reading]:
        """Return what the backbone takes beside vectors of positions, rows padded with zeros."""
        if not self.backbone.needs_reading:
            return {}
        kind = torch.int64
        tables = [torch.tensor([index for index, _ in row], dtype=kind) for row in rows]  # [T]
        books = max((len(ids) for row in rows for _, ids in row), default=1)
        ids = [
            torch.tensor([ids for _, ids in row], dtype=kind).view(-1, books)  # [T, Q]
            for row in rows
        ]
        pad = nn.utils.rnn.pad_sequence
        together = pad(tables, True).to(self.device), pad(ids, True).to(self.device)
        return {"reading": together}

    def rows(self, states: Sequence[State]) -> BatchRows:
        """Decode sequences that go on from ``states``, batch 1 each, as rows of one batch.

        Raises ``CapabilityError`` for several rows of a backbone that cannot hold them together.
        """
        return BatchRows(self, states)

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Choose the engine that computes steps of backbone and head -> its name, in words.

        Names as in ``wishbone.core.contract.engines``. A head without the backbone's engine stays
        plain PyTorch. Raises ``CapabilityError`` where the backbone cannot have it.
        """
        used = self.backbone.accelerate(engine, weights)
        try:
            head = self.head.accelerate(engine, weights)
        except CapabilityError:
            head = self.head.accelerate("eager")
        self.engine = used if weights == "float32" else f"{used} {weights}"
        if head != used:
            self.engine += f", head {head}"
        return self.engine

    def forward(
        self,
        table: Tensor,
        ids: Tensor,
        state: State | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """table [B, T], ids [B, T, Q], mask [B, T] -> hidden [B, T, D] and the state after them."""
        beside = {"reading": (table, ids)} if self.backbone.needs_reading else {}
        return self.backbone(self.embed(table, ids), state, mask=mask, **beside)

    def losses(self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Cross entropy of every target in nats, [B, T, Q]; 0 where nothing is predicted.

        table [B, T], ids and targets [B, T, Q], mask [B, T] true at real positions. Only positions
        with a target pass through the head: it is the widest layer of a small model.
        """
        hidden, _ = self(table, ids, mask=mask)  # [B, T, D]
        return self._entropies(hidden, targets, mask)

    def continued(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """Compute ``loss`` of sequences that began earlier, and the state after these positions.

        ``state`` is the state before the first of them, with a row for each sequence.
        """
        hidden, after = self(table, ids, state, mask)  # [B, T, D]
        count = ((targets != IGNORE) & mask[..., None]).sum()
        total = self._entropies(hidden, targets, mask).sum()
        return self._with_penalty(total, count), count, after

    def _entropies(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, T, D] -> cross entropies [B, T, Q] of the targets, 0 where there is none."""
        targets = targets.masked_fill(~mask[..., None], IGNORE)  # [B, T, Q]
        predicted = (targets != IGNORE).any(dim=-1)  # [B, T]
        answers = targets[predicted]  # [N, Q]
        logits = self.head.predict(hidden[predicted], answers).float()  # [N, Q, X]
        entropies = F.cross_entropy(
            logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORE, reduction="none"
        )  # [N Q]
        losses = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)  # [B, T, Q]
        losses[predicted] = entropies.view_as(answers)  # [N, Q]
        return losses

    def loss(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the sum of the cross entropy in nats, and the number of targets in that sum.

        Shapes as in ``losses``. The sum and the count are apart so that batches of any size, on any
        number of machines, can be averaged exactly.
        """
        count = ((targets != IGNORE) & mask[..., None]).sum()
        return self._with_penalty(self.losses(table, ids, targets, mask).sum(), count), count

    def _with_penalty(self, total: Tensor, count: Tensor) -> Tensor:
        """Add the backbone's penalty to the sum of ``count`` losses; only in training."""
        penalty = self.backbone.penalty() if self.training else None
        return total if penalty is None else total + penalty * count

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The backbone's own groups for AdamW, then those of head and tables.

        Rows of a table are not decayed: a row that a batch does not use would shrink for nothing.
        """
        tables = list(self.tables.parameters())
        table_ids = {id(p) for p in tables}
        for module in self.head.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embeddings = [p for p in module.parameters() if id(p) not in table_ids]
                table_ids.update(map(id, embeddings))
                tables.extend(embeddings)
        layers = [p for p in self.head.parameters() if id(p) not in table_ids]
        matrices = [p for p in layers if p.ndim > 1]
        plain = tables + [p for p in layers if p.ndim <= 1]
        head_groups = [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
        ]
        groups = self.backbone.parameter_groups(learning_rate, weight_decay)
        return groups + [group for group in head_groups if group["params"]]


def begin_session(layout: Layout, prompt: Prompt) -> tuple[LayoutSession, list[Position], Action]:
    """Begin a request -> its session, the prompt's positions, and the action after them."""
    session, positions = layout.start(prompt), []
    while isinstance(action := session.next(), Feed):
        positions.extend(action.positions)
    return session, positions, action


def prefix(model: SpeechLM, layout: Layout, prompt: Prompt) -> State:
    """Compute the state after the positions that follow from ``prompt`` alone, before any text."""
    _, positions, _ = begin_session(layout, prompt)
    state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
    if prompt.start:
        # copies, because a step may write into the state handed to it
        state |= copied(prompt.start)
    if prompt.adapter:
        state = model.backbone.choose_adapter(state, prompt.adapter)
    return model.advance(positions, state)[1] if positions else state


class BatchRows:
    """Sequences that are decoded as rows of one batch; they share every call and nothing else.

    Rows may take different positions, also none: the shorter is padded and masked, and a masked
    position changes nothing.
    """

    def __init__(self, model: SpeechLM, states: Sequence[State]) -> None:
        if len(states) > 1:
            check_masked_rows(model.backbone)
        self._model = model
        self._state = join(states)
        self._hidden: Tensor | None = None  # [B, D]

    @torch.inference_mode()
    def advance(self, rows: Sequence[Sequence[Position]]) -> None:
        """Put positions of a ``Feed`` through, each row its own; one each is a decoding step."""
        lengths = [len(row) for row in rows]
        if len(set(lengths)) > 1:
            self._advance_uneven(rows, lengths)
            return
        x = torch.cat([self._model.embed_positions(row) for row in rows])  # [B, T, D]
        beside = self._model.beside(rows)
        if lengths[0] == 1:
            y = self._model.backbone.step_(x, self._state, **beside)  # [B, 1, D]
        else:
            y, self._state = self._model.backbone(x, self._state, **beside)  # [B, T, D]
        self._hidden = y[:, -1]  # [B, D]

    def _advance_uneven(self, rows: Sequence[Sequence[Position]], lengths: Sequence[int]) -> None:
        filled = [index for index, row in enumerate(rows) if row]
        vectors = nn.utils.rnn.pad_sequence(
            [self._model.embed_positions(rows[index])[0] for index in filled], batch_first=True
        )  # [N, T, D]
        x = vectors.new_zeros(len(rows), *vectors.shape[1:])  # [B, T, D]
        x[filled] = vectors  # [N, T, D]
        counts = torch.tensor(lengths, device=x.device)[:, None]  # [B, 1]
        mask = torch.arange(x.shape[1], device=x.device) < counts  # [B, T]
        beside = self._model.beside(rows)
        y, self._state = self._model.backbone(x, self._state, mask=mask, **beside)  # [B, T, D]
        last = torch.stack([y[index, max(n, 1) - 1] for index, n in enumerate(lengths)])  # [B, D]
        before = last if self._hidden is None else self._hidden  # [B, D]
        self._hidden = torch.where(counts > 0, last, before)  # [B, D]

    @torch.inference_mode()
    def draw(
        self, positions: Sequence[Position], pick: Callable[[Tensor, int], int]
    ) -> tuple[int, ...]:
        """Put positions of a single row through, if any, and draw the ids that follow.

        Several positions are a prefill, one is a decoding step; ``pick`` as in ``Head.sample``.
        """
        if positions:
            self.advance([positions])
        assert self._hidden is not None
        return self._model.head.sample(self._hidden[0], pick)  # of [D]

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Logits over every row's next ids, [B, Q, X] float32 on the CPU."""
        return self._model.head(self._hidden).to("cpu", torch.float32)  # [B, Q, X]
