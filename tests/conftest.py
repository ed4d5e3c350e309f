"Before anything is imported: no network beyond this machine, no window, two threads, quiet libraries."

import os
import sys
from pathlib import Path

os.environ |= dict(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="2",  # torch's threads too
    NO_PROXY="localhost,127.0.0.1",
    no_proxy="localhost,127.0.0.1",
)
sys.path.insert(0, str(Path(__file__).parent.parent / ".ci"))
