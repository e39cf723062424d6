// How the routes for machines refuse: one line of text that a console can show, with a code of the closed table.
import type { FastifyReply } from 'fastify';
import type { ErrorCode } from '../errors.ts';

/** `CODE: what happened` and a line's end; what machines sent cannot break the line. */
export function refusalLine(code: ErrorCode, why: string): string {
  return `${code}: ${why.replace(/[\x00-\x1f\x7f]+/g, ' ')}\n`;
}

export function refuse(reply: FastifyReply, status: number, code: ErrorCode, why: string): FastifyReply {
  return sendText(reply, status, refusalLine(code, why));
}

export function sendText(reply: FastifyReply, status: number, body: string): FastifyReply {
  return reply.code(status).type('text/plain; charset=utf-8').send(body);
}
