/** Every page of a list: `for await (const page of pages((pageToken) => invoices.listInvoices({ pageToken })))`. */
export async function* pages<P extends { nextPageToken: string }>(
  list: (pageToken: string) => Promise<P>,
): AsyncGenerator<P> {
  let token = "";
  do {
    const page = await list(token);
    yield page;
    token = page.nextPageToken;
  } while (token !== "");
}
