"""``python -m crystalfm.predict ckpt=RUN input=SMILES_OR_FILE``: predictions of a trained model."""

import sys

from crystalfm.cli.main import predict_main as main

if __name__ == "__main__":
    sys.exit(main())
