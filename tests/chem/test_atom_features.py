"""CGCNN's features of the elements."""

import numpy as np
import pytest

from crystalfm.chem.atom_features import NUM_CGCNN_FEATURES, cgcnn_atom_features


def test_every_element_has_its_bits():
    features = cgcnn_atom_features()
    assert features.shape == (119, NUM_CGCNN_FEATURES)
    assert features.dtype == np.float32
    assert set(np.unique(features)) == {0.0, 1.0}
    assert features[0].sum() == 0
    assert (features[1:].sum(axis=1) >= 6).all()


def test_groups_are_one_hot_and_mean_what_they_say():
    features = cgcnn_atom_features()
    for first, last in ((0, 19), (19, 26)):
        assert (features[1:, first:last].sum(axis=1) == 1).all()
    assert (features[:, :26] @ np.arange(26))[[1, 3, 11, 26]].tolist() == [1 + 19, 1 + 20, 1 + 21, 8 + 22]


def test_elements_beyond_the_table_have_its_last_row():
    features = cgcnn_atom_features()
    np.testing.assert_array_equal(features[101:], np.tile(features[100], (18, 1)))


def test_the_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        cgcnn_atom_features()[6, 0] = 1
