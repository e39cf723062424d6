// The command line's way to the daemon's API: its Unix socket, or a URL.
import { request as httpRequest } from 'node:http';
import { readSettings } from '../config/settings.ts';
import { AppError, ERRORS, type ErrorCode } from '../errors.ts';

export interface ClientOptions {
  readonly config?: string;
  /** `unix:/path/api.sock` or `http://127.0.0.1:8081`; default: the settings' socket. Also RACKSEED_URL. */
  readonly url?: string;
}

export interface Client {
  get<T>(path: string): Promise<T>;
  /** `body` is sent as JSON. */
  post<T>(path: string, body?: unknown): Promise<T>;
  delete<T>(path: string): Promise<T>;
}

/** The API of the running daemon. Its errors come back as the AppErrors that they were; DAEMON_UNREACHABLE when nobody answers. */
export function createClient(options: ClientOptions): Client {
  const url = options.url ?? process.env['RACKSEED_URL'] ?? `unix:${readSettings(options.config).api.socket}`;
  const call = <T>(method: string, path: string, body?: unknown): Promise<T> =>
    new Promise((resolve, reject) => {
      const target = url.startsWith('unix:') ? { socketPath: url.slice('unix:'.length), path } : baseOf(url, path);
      const request = httpRequest({ ...target, method, headers: { host: 'rackseed', accept: 'application/json', ...(body === undefined ? {} : { 'content-type': 'application/json' }) }, timeout: 30_000 }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          try {
            const body = JSON.parse(Buffer.concat(chunks).toString('utf8')) as T & { code?: string; message?: string; hint?: string };
            if ((response.statusCode ?? 500) < 400) return resolve(body);
            const code = body.code !== undefined && Object.hasOwn(ERRORS, body.code) ? (body.code as ErrorCode) : 'BUG';
            reject(new AppError(code, body.message ?? `the daemon answered ${response.statusCode}`, body.hint));
          } catch {
            reject(new AppError('DAEMON_UNREACHABLE', `${url} answers, but not as rackseed does`, 'does --url name the API (not the port that machines use)?'));
          }
        });
      });
      request.on('timeout', () => request.destroy(new Error('no answer in 30 s')));
      request.on('error', (error: NodeJS.ErrnoException) =>
        reject(new AppError('DAEMON_UNREACHABLE', `the daemon does not answer at ${url}: ${error.code ?? error.message}`, 'is it running (rackseed serve)? --config or --url (RACKSEED_URL) say where', error)),
      );
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  return { get: (path) => call('GET', path), post: (path, body) => call('POST', path, body), delete: (path) => call('DELETE', path) };
}

function baseOf(url: string, path: string): { host: string; port: number; path: string } {
  let base: URL;
  try {
    base = new URL(url);
  } catch {
    throw new AppError('USAGE', `${url} is not a URL`, 'write unix:/path/to/api.sock or http://127.0.0.1:8081');
  }
  return { host: base.hostname, port: Number(base.port || 80), path };
}
