"""FG-CLEP's two stages with our recipe `ptbxl`: a fine stage that keeps the plain reports beside the restored ones.

In the fine stage a coin decides for each example whether its report has restored waveform features. Which pairs match
follows from the restored reports; their vectors are centred, because those of long reports are all alike. The values
were chosen on the validation fold with half the width and a third of the patients. The fine stage needs shards from
`etp waveform restore`, which serve the coarse stage too, and the coarse run as `--start-from`.
"""

from dataclasses import replace

from etp_jax.configs import ptbxl

coarse = replace(ptbxl.config, loss=replace(ptbxl.config.loss, semantic_centre=True, semantic_temperature=0.2))

fine = replace(
    coarse,
    start_from="NAME-THE-COARSE-RUN",  # an empty value would silently train from scratch
    data=replace(coarse.data, restored_share=0.5),
    optim=replace(coarse.optim, epochs=2.0, warmup_epochs=0.25, learning_rate=1e-3),
)

config = coarse
stages = {"coarse": coarse, "fine": fine}
