"""The records that cross from one room to another as JSON files. They import configuration only."""

from fithubert.records.base import Head, JsonObject, Record, label_heads, parse_head
from fithubert.records.metrics import (
    CacheMetrics,
    CorpusSummary,
    CurvePoint,
    DistillMetrics,
    ExtractMetrics,
    Machine,
    ModelCost,
    ModelCosts,
    Parameters,
    PartCost,
    PhoneProbe,
    PrepareMetrics,
    ProfileMetrics,
    Ratio,
    SkippedRecording,
    StoredLayer,
    StoreMetrics,
    TeacherMetrics,
    TrainedParameters,
)
from fithubert.records.results import (
    AblationMetrics,
    AblationSummary,
    AblationTrial,
    Comparison,
    CompressJob,
    CompressMetrics,
    SweepMetrics,
    SweepPoint,
    SweepReference,
    TaskScore,
    TimingSettings,
    VariantCost,
)
from fithubert.records.scores import (
    Candidate,
    DepthMetrics,
    LayerScore,
    ModelScores,
    SuperbMetrics,
    add_resamples,
    write_resamples,
)
from fithubert.records.summary import (
    CostSummary,
    DepthGate,
    KeptShare,
    Lead,
    ModelSummary,
    PairedDifference,
    Summary,
    load_summary,
)
