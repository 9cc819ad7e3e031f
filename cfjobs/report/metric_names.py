"""Names of the metrics for people: what each is called, how it is written, which way is better,
and what it is compared with."""

from dataclasses import dataclass

from cfjobs.tables.schema import OF_PUBLISHED

BIASES, POPULARITY = "biases alone", "popularity list"


@dataclass(frozen=True)
class MetricName:
    """better: +1 when more is better, -1 when less is, 0 when neither. form: a format of the value."""

    name: str
    form: str = "{:.3f}"
    better: int = 1
    baseline: str = POPULARITY

    def written(self, value: float | None) -> str:
        """The value as text; empty for none."""
        return "" if value is None else self.form.format(value)

    def change(self, value: float, before: float) -> str:
        """The signed difference as it is written, such as +0.012 or +1.2 points;
        empty when it rounds to nothing."""
        size = self.form.format(abs(value - before)).replace("%", " points")
        nothing = self.form.format(0).replace("%", " points")
        return "" if size == nothing else f"{'+' if value > before else '−'}{size}"

    def verdict(self, value: float, before: float, interval: tuple[float | None, float | None]) -> str:
        """Whether value is `better` or `worse` than before;
        `muted` when before lies inside value's interval."""
        low, high = interval
        if not self.better or low is None or high is None or low <= before <= high:
            return "muted"
        return "better" if (value - before) * self.better > 0 else "worse"


METRICS = {
    "rmse": MetricName("Rating error (RMSE), stars", better=-1, baseline=BIASES),
    "mae": MetricName("Rating error (MAE), stars", better=-1, baseline=BIASES),
    "ndcg_at_10": MetricName("Ranking quality (nDCG@10)"),
    "recall_at_10": MetricName("Liked movies found (recall@10)", "{:.1%}"),
    "map_at_10": MetricName("Average precision (MAP@10)"),
    "mrr_at_10": MetricName("First liked movie, 1 / rank (MRR@10)"),
    "disliked_share_at_10": MetricName("Disliked, of the listed and rated", "{:.1%}", better=-1),
    "stars_at_10": MetricName("Predicted stars of a listed movie", "{:.2f}", better=0),
    "coverage": MetricName("Movies in some first ten (coverage)", "{:.1%}"),
    "novelty_at_10": MetricName("Novelty of listed movies, bits", "{:.2f}", better=0),
    "popular_share_at_10": MetricName("Places that popular movies take", "{:.1%}", better=0),
    "gini": MetricName("How unequal movies share the places (Gini)", "{:.3f}", better=0),
    "diversity_at_10": MetricName("Diversity of a list (1 − cosine)", "{:.2f}", better=0),
    "genre_distance_at_10": MetricName("Genres off those of the ratings", "{:.1%}", better=-1),
    "churn": MetricName("Places that are new since last night", "{:.1%}", better=0),
    "churn_unchanged": MetricName("The same, of users without a new rating", "{:.1%}", better=0),
    "churn_changed": MetricName("The same, of users with one", "{:.1%}", better=0),
    "ndcg_at_10_against_popular_7_days": MetricName("nDCG@10 beside the most popular of 7 days"),
    "ndcg_at_10_against_popular_30_days": MetricName("nDCG@10 beside the most popular of 30 days"),
    "ndcg_at_10_against_ease": MetricName("nDCG@10 beside EASE"),
    "ndcg_at_10_against_slit": MetricName("nDCG@10 beside SLIT"),
}


def of(metric: str) -> MetricName:
    """The name of a metric, measured on the holdout or on the published lists; of an unknown one,
    its own with spaces."""
    return METRICS.get(metric.removesuffix(OF_PUBLISHED)) or MetricName(
        metric.replace("_", " ").capitalize(), better=0
    )
