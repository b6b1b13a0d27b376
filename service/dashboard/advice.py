"""What to do about an attempt that failed, by the kind of its error."""

ADVICE = {
    "out_of_memory": "A worker used more memory than there is, and would again. Ask for smaller batches "
    "(settings.batch_size, settings.retrain_batch_size), fewer channels, more workers to share a batch out to, or "
    "engine.recompute, which keeps less and computes more.",
    "worker_failed": "A worker died; the traceback and the driver's log say of what. If its node went away, try again: "
    "it resumes from the last checkpoint.",
    "failed": "The traceback and the driver's log say where. If the cluster was at fault, try again: it resumes from "
    "the last checkpoint.",
    "data_changed": "The dataset is not the one that this search began with. Put back what changed and try again, or "
    "submit a new search of what is there now.",
    "data": "The dataset cannot be read. Look at the file or folder that is named, fix it, and try again. Workers "
    "must find it at the same place as the service.",
    "checkpoint": "The checkpoint does not fit this version of Yoso or this search. Submit a new search instead of "
    "trying again.",
    "diverged": "The loss became infinite. Ask for a smaller learning rate (settings.lr or settings.retrain_lr), or "
    "for another seed.",
    "limits": "The limits turned out not to be feasible on the search's device. Loosen the one that is named.",
    "engine": "The workers' devices cannot do what was asked for. Submit a new search with a value that is accepted, "
    "or with an accelerator type that can do it.",
    "waiting": "By Yoso's count there was room for its workers, and Ray found none: see what else runs on the "
    "cluster's nodes. It is tried again by itself, as often as it takes.",
    "preempted": "It made room for a search of a higher priority, and is queued again. It resumes from its last "
    "checkpoint as soon as there is room.",
    "vanished": "Ray restarted and lost the job. Try again: it resumes from the last checkpoint.",
    "job": "The job ended without saying why. The driver's log may; if its node went away, try again.",
    "storage": "The result was torn or is gone. See that the storage is well and not full, and try again.",
    "folder": "What a worker left in the run's folder is not what this version of the service expects; the message "
    "names the file and the field. See that service and workers run the same version, and submit a new search.",
    "internal": "The service failed on this search several times; its log has the traceback. Try the search again "
    "after an update of the service, and report what the message says.",
    "not_started": "It has waited for as long as it may (max_wait). See on the page of the cluster who holds what, ask "
    "for fewer workers or a higher priority, or try again; yoso retry ID --max-wait 8h gives it another deadline.",
    "deadline": "It has run for as long as it may (max_run). Try again: it resumes from its last checkpoint, for the "
    "same time again; yoso retry ID --max-run 24h gives it another deadline.",
    "finalists": "None of the searches of this sweep has found a network. See why they failed, try them again, and "
    "then the finals.",
}
