"""What to do about an attempt that failed, by the kind of its error."""

ADVICE = {
    "out_of_memory": "A worker ran out of memory, and would again. Use smaller batches (settings.batch_size, "
    "settings.retrain_batch_size), fewer channels, more workers to share each batch, or engine.recompute, which "
    "uses less memory and more time.",
    "worker_failed": "A worker died. The traceback and the driver's log show why. If its node was lost, try again: "
    "the search resumes from its last checkpoint.",
    "failed": "The traceback and the driver's log show where it failed. If the cluster was the cause, try again: "
    "the search resumes from its last checkpoint.",
    "data_changed": "The dataset has changed since this search began. Restore what changed and try again, or submit "
    "a new search on the present dataset.",
    "data": "The dataset cannot be read. Check the file or folder named above, fix it, and try again. Workers must "
    "find it at the same path as the service.",
    "checkpoint": "The checkpoint does not fit this version of Yoso or this search. Submit a new search.",
    "diverged": "The loss became infinite. Use a smaller learning rate (settings.lr or settings.retrain_lr) or "
    "another seed.",
    "limits": "No network keeps the limits on the search's device. Loosen the limit named above.",
    "engine": "The workers' devices do not support an option of the request. Submit a new search with an accepted "
    "value, or with an accelerator type that supports it.",
    "waiting": "Yoso counted enough free resources for the workers, but Ray did not start them. Check what else "
    "runs on the cluster's nodes. Yoso keeps trying.",
    "preempted": "It was stopped for a search of a higher priority and is queued again. It resumes from its last "
    "checkpoint when there are resources.",
    "vanished": "Ray restarted and lost the job. Try again: the search resumes from its last checkpoint.",
    "job": "The job ended without an error message. Check the driver's log. If its node was lost, try again.",
    "storage": "The result is missing or incomplete. Check that the storage works and is not full, and try again.",
    "folder": "A file in the run's folder is not as this version of the service expects; the message names the file "
    "and the field. Check that the service and the workers have the same version, and submit a new search.",
    "internal": "The service failed on this search several times; its log has the traceback. Report the message "
    "above, and try again after an update of the service.",
    "not_started": "It reached its limit on queue time (max_wait). The cluster page shows what uses the resources. "
    "Ask for fewer workers or a higher priority, or try again; yoso retry ID --max-wait 8h sets a new limit.",
    "deadline": "It reached its limit on running time (max_run). Try again: it resumes from its last checkpoint, "
    "with the same limit again; yoso retry ID --max-run 24h sets a new limit.",
    "finalists": "No search of this sweep found a network. See why they failed, try them again, and then the finals.",
}
