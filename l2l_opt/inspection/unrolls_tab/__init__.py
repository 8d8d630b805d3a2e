"""The tab "Unrolls" of TensorBoard: records in event files, a server that reads them, and a page that plays them."""
