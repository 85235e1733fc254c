"""What s3prl's SUPERB recipes do besides their settings, each by name."""

from fithubert.config.base import StrictModel


class OfficialQuirks(StrictModel):
    """Habits of s3prl that change numbers. All are on in the official protocol; one that is off is a departure from it.

    Source: s3prl/downstream at ec8064b5, the code behind the leaderboard.
    """

    #: PR: vowels with their stress, 74 outputs; off: without, 44.
    pr_stress: bool = True
    #: PR, SF: a batch of neighbours in target length from any start, so that batches overlap; off: every utterance once
    #: an epoch.
    overlapping_batches: bool = True
    #: PR, SF: of a batch whose utterance with the longest target is over 300,000 samples, the shorter half is dropped.
    half_long_batches: bool = True
    #: ASR: every full bucket of 32 is trained as two batches of 16 (a threshold in frames, compared with samples).
    asr_half_batches: bool = True
    #: ASR, SF: time warp and masks on the weighted sum in training.
    spec_augment: bool = True
    #: KS: training draws with replacement, all classes equally often; off: shuffled epochs.
    ks_balanced_train: bool = True
    #: KS: dev is drawn likewise, the same draw at every evaluation; off: every dev clip once.
    ks_resampled_dev: bool = True
    #: KS, QbE, ASV: recordings are 3 dB quieter, as sox's `gain -3` makes them (`data.gain_db`).
    sox_gain: bool = True
    #: SID: training hears 8 s of longer recordings, one of the stored crops (`data.crops`) an epoch; off: all of them.
    sid_crops: bool = True
    #: ASV: training hears 8 s of longer recordings and none of at most 2 s; off: all of all.
    asv_crops: bool = True
    #: ASV: recordings without their silences, as sox cuts them out (`data.trim_silence`); off: with them.
    asv_silence_trim: bool = True
    #: ASV: statistics pooling takes one frame more than is valid.
    asv_extra_frame: bool = True
    #: ASV: the checkpoint with the lowest error on test is reported too, as eer_test_selected.
    asv_test_selection: bool = True
    #: SD: the recurrent layer reads forwards only; off: both ways.
    sd_unidirectional: bool = True
    #: SD: selected by frame accuracy on dev; off: by diarisation error on dev.
    sd_frame_accuracy: bool = True
    #: SD: a turn that covers more than a whole chunk of 2,000 frames at both ends is labelled as silence in it.
    sd_silent_full_chunks: bool = True
    #: SD: the threshold and median filter of lowest error on test are reported too, as der_test_selected.
    sd_test_postprocessing: bool = True
    #: ER: the dev split is drawn in the order of s3prl's lists (`data.lists` of IEMOCAP).
    er_split_order: bool = True
