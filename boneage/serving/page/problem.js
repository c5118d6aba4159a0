/** Why there is no answer: `status` is that of HTTP, or 0 if nothing answers. */
export class Problem extends Error {
  constructor(status, detail = "", retryAfter = 0) {
    super(detail);
    this.status = status;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}
