// The response of the machines' servers: it writes the one field name that a client knows by its letters as that client knows it.
import { ServerResponse, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http';

/**
 * GRUB 2.06 and older compare this name with memcmp (grub-core/net/http.c): in small letters, as fastify writes all, the file has no size and no end for them.
 * RFC 9110 5.1 has names mean the same in any case, and everybody else reads them so.
 */
const LENGTH = 'Content-Length';

const isLength = (name: string): boolean => name.length === LENGTH.length && name.toLowerCase() === 'content-length';

export class MachineResponse extends ServerResponse {
  override setHeader(name: string, value: number | string | readonly string[]): this {
    return super.setHeader(isLength(name) ? LENGTH : name, value);
  }

  override writeHead(status: number, ...rest: (string | OutgoingHttpHeaders | OutgoingHttpHeader[] | undefined)[]): this {
    return super.writeHead(status, ...(rest.map((one) => (typeof one === 'object' && !Array.isArray(one) ? renamed(one) : one)) as [string]));
  }
}

function renamed(fields: OutgoingHttpHeaders): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [isLength(name) ? LENGTH : name, value]));
}
