"""`make bench`: TaskFlow and its peers on the same servers, one after the other, in rounds."""
