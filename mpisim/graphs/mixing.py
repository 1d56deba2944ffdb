"""Mixing matrices: who listens to whom, and how much.

W[i, j] is the weight node i gives node j's model. Rows sum to 1 (but under ``scale``, which shrinks a model and listens
to nobody); W is zero outside the neighborhood.

A strategy (``strategies.py``) says once, on rank 0, which entries W has and how each is *scored*. Each round the scores
become weights, row by row (``MixingRule.weights``): that needs numpy alone, and a rank does it for its own nodes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpisim.errors import InputError
from mpisim.streams import Purpose, stream

NORMALIZATIONS = ("softmax", "sum")
ROUNDING = 1e-9  # relative; of a centrality


@dataclass(frozen=True)
class MixingRule:
    """Some rows of W before they are weights, in CSR form.

    Attributes
    ----------
    num_nodes : int
        Of the whole topology, whichever rows are held here.
    rows : int64, shape (num_rows,)
        The nodes whose rows these are.
    indptr, indices : int64, shapes (num_rows + 1,) and (num_entries,)
        Row r owns the entries indptr[r]…indptr[r + 1]; an entry's node is in indices, ascending within a row.
    scores : float64, shape (num_entries,)
        What the strategy thinks of the entry's node.
    probability : float64, shape (num_entries,)
        The probability that the entry's edge works in a round; 1 for the node itself.
    edge : int64, shape (num_entries,)
        The number of the entry's undirected edge, the same in both directions; -1, which none has, for the node itself.
    normalization : "softmax", "sum" or "none"
        How scores become weights.
    redrawn : bool
        Whether every node's score is drawn anew each round, from U(0, 1).
    similarity : bool
        Whether the sign of a row's inverse temperature follows from the neighbor whose model is least alike.
    num_edges : int
    """

    num_nodes: int
    rows: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    scores: np.ndarray
    probability: np.ndarray
    edge: np.ndarray
    normalization: str
    redrawn: bool
    similarity: bool
    num_edges: int

    def of_rows(self, rows: np.ndarray) -> MixingRule:
        """Return the rule of some of the rows, in the order given."""
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        entries = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return MixingRule(
            self.num_nodes,
            self.rows[rows],
            indptr,
            self.indices[entries],
            self.scores[entries],
            self.probability[entries],
            self.edge[entries],
            self.normalization,
            self.redrawn,
            self.similarity,
            self.num_edges,
        )

    def weights(
        self,
        seed: int,
        round: int,
        inverse_temperature: float,
        *,
        takes_part: np.ndarray | None = None,
        least_alike: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the weight of every entry in a round, float64, shape (num_entries,).

        Entries whose edge fails this round, or whose node takes no part in it, weigh 0, and the others of the row share
        what is left. A node that takes no part keeps its model.

        Parameters
        ----------
        seed, round : int
            The address of what is drawn: random scores, and which edges fail.
        inverse_temperature : float
            What the softmax multiplies scores by: 0 makes them equal, a negative one prefers the lowest. Not used by
            other normalizations.
        takes_part : bool array, shape (num_nodes,), optional
            Which nodes take part in the round; all if not given.
        least_alike : int array, shape (num_rows,), only where ``similarity`` asks for it
            The entry of each row's neighbor whose model is least alike, as ``exchange.similarity`` finds it; -1 in a
            row without neighbors.

        Raises
        ------
        InputError
            If the inverse temperature is not finite.
        ValueError
            If ``similarity`` asks for ``least_alike``, and it is not given.
        """
        if not np.isfinite(inverse_temperature):
            raise InputError(f"the inverse temperature is {inverse_temperature}: must be finite")
        scores = self.scores
        if self.redrawn:
            drawn = stream(seed, Purpose.RANDOM_WEIGHTS, round=round).random(self.num_nodes)
            scores = drawn[self.indices]
        answers = self.answering(seed, round, takes_part)
        weights = self._normalized(scores, answers, inverse_temperature, least_alike)
        if takes_part is not None:
            keeps = ~takes_part[self.rows][self._row_of()]
            weights = np.where(keeps, self._is_own().astype(np.float64), weights)
        return weights

    def _normalized(
        self, scores: np.ndarray, answers: np.ndarray, inverse_temperature: float, least_alike: np.ndarray | None
    ) -> np.ndarray:
        """Return the scores of the entries that answer as weights."""
        if self.normalization == "none":
            return np.where(answers, scores, 0.0)
        row_of = self._row_of()
        if self.normalization == "softmax":
            inverse = self._inverse_of_rows(inverse_temperature, least_alike)[row_of]
            logits = np.where(answers, scores * inverse, -np.inf)
            # Every row holds the node itself, which always answers: no row is empty and no maximum infinite.
            raw = np.exp(logits - np.maximum.reduceat(logits, self.indptr[:-1])[row_of])
        else:
            raw = np.where(answers, scores, 0.0)
            nothing = np.add.reduceat(raw, self.indptr[:-1]) == 0
            raw = np.where(nothing[row_of] & answers, 1.0, raw)  # scores that are all zero prefer nobody
        return np.asarray(raw / np.add.reduceat(raw, self.indptr[:-1])[row_of])

    def _row_of(self) -> np.ndarray:
        """Return the position in ``rows`` of each entry's row."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.indptr))

    def _is_own(self) -> np.ndarray:
        """Return whether each entry is a node's own."""
        return np.asarray(self.indices == self.rows[self._row_of()])

    def _inverse_of_rows(self, inverse_temperature: float, least_alike: np.ndarray | None) -> np.ndarray:
        """Return each row's inverse temperature: negative where the least alike neighbor scores below the node."""
        num_rows = len(self.indptr) - 1
        if not self.similarity:
            return np.full(num_rows, inverse_temperature)
        if least_alike is None:
            raise ValueError("these weights depend on which models are least alike: least_alike is missing")
        own_score = self.scores[self._is_own()]
        # Scores that are equal but for their rounding are equal: no sign may hang on the order of a sum.
        below = (least_alike >= 0) & (self.scores[least_alike] < own_score * (1 - ROUNDING))
        return np.where(below, -1.0, 1.0) * abs(inverse_temperature)

    def answering(self, seed: int, round: int, takes_part: np.ndarray | None = None) -> np.ndarray:
        """Return whether each entry's node is heard in a round, bool, shape (num_entries,).

        Edges may fail, and nodes that take no part send nothing; a node always hears itself.
        """
        heard = np.ones(len(self.indices), dtype=bool)
        if (self.probability < 1).any():
            drawn = stream(seed, Purpose.LINKS, round=round).random(self.num_edges)
            heard = drawn[self.edge] < self.probability
        if takes_part is not None:
            heard &= takes_part[self.indices] & takes_part[self.rows][self._row_of()]
        return np.asarray(heard | self._is_own())
