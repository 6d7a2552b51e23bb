package io.tollway.sdk;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.Function;

/** A list, however many pages it has. */
public final class Pages {
  private Pages() {}

  /**
   * Every page, asked for as it is reached: {@code Pages.of(token -> invoices.listInvoices(request.setPageToken(token)
   * .build()), ListInvoicesResponse::getNextPageToken)}.
   */
  public static <P> Iterable<P> of(Function<String, P> list, Function<P, String> nextToken) {
    return () ->
        new Iterator<>() {
          private String token = "";
          private boolean ended;

          @Override
          public boolean hasNext() {
            return !ended;
          }

          @Override
          public P next() {
            if (ended) {
              throw new NoSuchElementException();
            }
            P page = list.apply(token);
            token = nextToken.apply(page);
            ended = token.isEmpty();
            return page;
          }
        };
  }
}
