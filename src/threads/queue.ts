// First in, first out, at the same cost however long it is, which an array's shift() has not.

export interface Queue<T> {
  put(one: T): void;
  /** Throws nothing: whoever takes has looked at the size. */
  take(): T;
  size(): number;
}

export function createQueue<T>(): Queue<T> {
  let [inbound, outbound]: [T[], T[]] = [[], []];
  return {
    put: (one) => void inbound.push(one),
    take() {
      if (outbound.length === 0) [inbound, outbound] = [[], inbound.reverse()];
      return outbound.pop()!;
    },
    size: () => inbound.length + outbound.length,
  };
}
