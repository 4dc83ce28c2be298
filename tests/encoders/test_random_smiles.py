"""Training on several SMILES of a molecule; reading the table's own everywhere else."""

import numpy as np
import pytest
from rdkit import Chem

from crystalfm.chem.molecules import random_smiles
from crystalfm.contracts import UserError
from crystalfm.data.batches import RecordDataset
from crystalfm.data.features import TokenStore
from crystalfm.data.sampler import ResumableBatchSampler
from crystalfm.encoders.tokens import TokenTransformerEncoder

MOLECULES = ["CC(C)(O)C#N", "c1ccncc1O", "OCC1CC1N"]


def words(store, row, variant):
    tokens = store.gather(np.array([row]), np.array([variant]))["smiles.tokens"]
    return tokens[0].tolist()


def make_store(num=4, train=MOLECULES[:2]):
    encoder = TokenTransformerEncoder(modality="smiles", num_random_smiles=num)
    encoder.fit(train)
    return encoder, encoder.prepare(MOLECULES)


def test_random_smiles_are_the_same_molecule_and_repeat_with_the_seed():
    found = random_smiles("CC(C)(O)C#N", num=20, seed=3)
    assert {Chem.CanonSmiles(text) for text in found} == {Chem.CanonSmiles("CC(C)(O)C#N")}
    assert len(set(found)) > 3
    assert found == random_smiles("CC(C)(O)C#N", num=20, seed=3)
    assert found != random_smiles("CC(C)(O)C#N", num=20, seed=4)


def test_training_molecules_have_variants_and_others_repeat_themselves():
    _, store = make_store()
    assert store.num_variants == 5
    assert len({tuple(words(store, 0, variant)) for variant in range(5)}) > 1
    assert all(words(store, 2, variant) == words(store, 2, 0) for variant in range(5))


def test_variant_zero_is_the_tables_own_string():
    _, store = make_store()
    plain = TokenTransformerEncoder(modality="smiles")
    encoder, _ = make_store()
    plain.load_state(encoder.state())
    without = plain.prepare(MOLECULES)
    rows = np.arange(3)
    assert store.gather(rows)["smiles.tokens"].equal(without.gather(rows)["smiles.tokens"])
    assert (store.lengths == without.lengths).all()


def test_a_restored_encoder_makes_no_variants():
    encoder, _ = make_store()
    restored = TokenTransformerEncoder(modality="smiles", num_random_smiles=4)
    restored.load_state(encoder.state())
    assert restored.prepare(MOLECULES).num_variants == 1


def test_a_data_set_takes_the_variant_from_the_number():
    _, store = make_store()
    data = RecordDataset(np.zeros((3, 1)), {"smiles": store})
    assert data.num_variants == 5
    batch = data.__getitems__([0 + 3 * 2, 1])
    assert batch["row"].tolist() == [0, 1]
    assert batch["smiles.tokens"][0, : len(words(store, 0, 2))].tolist() == words(store, 0, 2)


def test_every_epoch_draws_other_variants_of_the_same_rows_and_a_resumed_one_the_same():
    def drawn(epoch, start=0):
        sampler = ResumableBatchSampler(np.arange(40), batch_size=8, seed=1, num_variants=5, num_table_rows=50)
        sampler.set_epoch(epoch)
        sampler.start_batch = start
        return list(sampler)

    first = [number for batch in drawn(0) for number in batch]
    assert sorted(number % 50 for number in first) == list(range(40))
    assert {number // 50 for number in first} == {0, 1, 2, 3, 4}
    assert drawn(0) != drawn(1)
    assert drawn(1, start=2) == drawn(1)[2:]


def test_one_variant_leaves_the_order_as_it_was():
    plain = list(ResumableBatchSampler(np.arange(20), batch_size=4, seed=1))
    assert plain == list(ResumableBatchSampler(np.arange(20), batch_size=4, seed=1, num_table_rows=20))


def test_selfies_have_no_random_form():
    with pytest.raises(UserError, match="needs SMILES"):
        TokenTransformerEncoder(modality="selfies", num_random_smiles=2)


def test_a_store_without_variants_ignores_the_number():
    store = TokenStore("smiles", np.ones(1, bool), np.array([5, 6]), np.array([0, 2]))
    assert words(store, 0, 7) == [5, 6]
