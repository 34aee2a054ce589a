"""When two answers are the same: notation, structure, arithmetic, algebra, and its worker pool.

``compare.equal`` is the rule; ``pool.WorkerPool`` runs its algebra in processes that can be killed.
"""
