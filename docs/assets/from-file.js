// Browsers refuse workers to pages opened from the file system, and search needs one.
if (location.protocol === "file:") document.documentElement.classList.add("from-file")
