"""The ground floor: typed config, storage, run directories, reports. Knows no Ray and no stage."""
