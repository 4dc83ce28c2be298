import numpy as np
import pytest

from crystalfm.contracts import TargetSpec, UserError
from crystalfm.data.features import TokenStore, VectorStore
from crystalfm.models.classical import TOKEN_COLUMNS, ClassicalFeatures, gather_dense, token_counts
from crystalfm.models.mean import MeanPredictor


def _bits(num_rows, present=None):
    bits = np.random.default_rng(0).random((num_rows, 64)) < 0.2
    present = np.ones(num_rows, dtype=bool) if present is None else present
    return bits, VectorStore("fingerprint", present, np.packbits(bits, axis=1), np.arange(num_rows), "bits")


def _vectors(num_rows, present=None):
    vectors = np.random.default_rng(1).normal(size=(num_rows, 5)).astype(np.float32)
    present = np.ones(num_rows, dtype=bool) if present is None else present
    return vectors, VectorStore("smiles", present, vectors, np.arange(num_rows), "embedding")


def test_bits_are_unpacked_in_order_and_stay_bytes():
    bits, store = _bits(20)
    rows = np.array([7, 3, 3, 19])
    matrix = gather_dense({"fingerprint": store}, rows)
    assert matrix.dtype == np.uint8
    np.testing.assert_array_equal(matrix, bits[rows])


def test_modalities_stand_side_by_side_in_their_order():
    bits, bit_store = _bits(9000)  # more than one chunk
    vectors, vector_store = _vectors(9000)
    rows = np.random.default_rng(2).permutation(9000)
    matrix = gather_dense({"smiles": vector_store, "fingerprint": bit_store}, rows)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.concatenate([vectors, bits], axis=1)[rows])


def test_absent_embeddings_are_missing_and_absent_fingerprints_empty():
    present = np.array([True, False])
    matrix = gather_dense({"smiles": _vectors(2, present)[1], "fingerprint": _bits(2, present)[1]}, np.arange(2))
    assert not np.isnan(matrix[0]).any()
    assert np.isnan(matrix[1, :5]).all()
    assert (matrix[1, 5:] == 0).all()


def test_no_rows_give_an_empty_matrix_of_full_width():
    assert gather_dense({"fingerprint": _bits(3)[1]}, np.zeros(0, dtype=np.int64)).shape == (0, 64)


def test_no_modality_is_refused():
    with pytest.raises(UserError, match="modality"):
        gather_dense({}, np.arange(3))


def test_token_counts_count_tokens_and_ordered_neighbours():
    tokens = np.array([[5, 6, 5, 5], [6, 5, 0, 0]])
    counts = token_counts(tokens, np.array([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool))
    assert counts.shape == (2, TOKEN_COLUMNS)
    half = TOKEN_COLUMNS // 2
    assert (counts[0, 5], counts[0, 6], counts[0, :half].sum()) == (3, 1, 4)
    assert (counts[1, 5], counts[1, 6], counts[1, :half].sum()) == (1, 1, 2)  # padding does not count
    assert counts[0, half:].sum() == 3
    assert counts[1, half:].sum() == 1
    shared = (counts[0, half:] > 0) & (counts[1, half:] > 0)
    assert shared.sum() == 1  # the pair (6, 5) is in both, (5, 6) only in the first


def test_token_counts_do_not_depend_on_padding():
    store = TokenStore("smiles", np.ones(2, dtype=bool), np.array([1, 2, 3, 4, 5, 6, 7]), np.array([0, 2, 7]))
    alone = gather_dense({"smiles": store}, np.array([0]))
    together = gather_dense({"smiles": store}, np.array([0, 1]))
    np.testing.assert_array_equal(alone[0], together[0])


def test_token_counts_stop_at_what_a_byte_holds():
    counts = token_counts(np.full((1, 400), 3), np.ones((1, 400), dtype=bool))
    assert counts[0, 3] == 255


def _features(train_y):
    x = np.zeros((len(train_y), 2))
    return ClassicalFeatures(x, np.asarray(train_y, dtype=float), x[:0], np.zeros((0, 2)))


TARGETS = (TargetSpec("gap", "hartree"), TargetSpec("mu", "1"))


def test_mean_predictor_knows_only_known_training_values():
    model = MeanPredictor(targets=TARGETS)
    model.fit(_features([[1.0, np.nan], [3.0, 5.0]]), seed=0)
    np.testing.assert_array_equal(model.predict(np.zeros((2, 7))), [[2.0, 5.0], [2.0, 5.0]])
    twin = MeanPredictor.from_state(model.state(), targets=TARGETS)
    np.testing.assert_array_equal(twin.predict(np.zeros((1, 7))), [[2.0, 5.0]])
    assert model.search_table() == []


def test_mean_of_nothing_and_no_target_are_refused():
    with pytest.raises(UserError, match="'mu'"):
        MeanPredictor(targets=TARGETS).fit(_features([[1.0, np.nan]]), seed=0)
    with pytest.raises(UserError, match="target"):
        MeanPredictor(targets=())
