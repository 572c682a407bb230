//! Process death and storage. K, P, D: the process dies, the power is cut, the disk is full, slow, broken or gone.
