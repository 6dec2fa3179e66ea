r"""Runs a stream as --config says: from a file to files, or from a camera to a page.

python main.py --config configs/demo.py
python main.py --config configs/live.py
python main.py --config configs/render.py --config.source=my.mp4 \
  --config.prompt="a watercolour painting"
"""

from mirage_jax.cli import run

if __name__ == "__main__":
    run()
