"""Why a model says what it says: what its errors become when parts of its inputs are taken away."""
