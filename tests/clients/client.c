/* A client in C, with POSIX alone: client SOCKET publish|beat|commands [AFTER]
   It asks in HTTP/1.0, to which every answer is plain and ends with the connection: no chunks, no lengths. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Sends a request; returns what the answer's body is read from, or NULL if it is no 2xx. */
static FILE *ask(const char *path, const char *method, const char *target, const char *body)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || strlen(path) >= sizeof address.sun_path)
        return NULL;
    strcpy(address.sun_path, path);
    FILE *answer = fdopen(fd, "r+");
    if (!answer || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return NULL;
    fprintf(answer, "%s %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s", method, target, strlen(body), body);
    fflush(answer);
    char line[1024];
    int status = 0;
    if (!fgets(line, sizeof line, answer) || sscanf(line, "HTTP/%*s %d", &status) != 1)
        return NULL;
    while (fgets(line, sizeof line, answer) && strcmp(line, "\r\n") != 0)
        ;
    if (status / 100 == 2)
        return answer;
    while (fgets(line, sizeof line, answer))
        fputs(line, stderr);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 64;
    char target[64] = "/v1/commands?after=0", line[65536];
    FILE *answer = NULL;
    if (strcmp(argv[2], "publish") == 0)
        answer = ask(argv[1], "POST", "/v1/publish?topic=room/2", "{\"celsius\":22.5}");
    else if (strcmp(argv[2], "beat") == 0)
        answer = ask(argv[1], "POST", "/v1/heartbeat", "");
    else if (strcmp(argv[2], "commands") == 0) {
        if (argc > 3)
            snprintf(target, sizeof target, "/v1/commands?after=%s", argv[3]);
        answer = ask(argv[1], "GET", target, "");
    }
    if (!answer)
        return 1;
    while (fgets(line, sizeof line, answer)) {
        fputs(line, stdout); /* of commands: a line of JSON each, as they come */
        fflush(stdout);
    }
    return 0;
}
